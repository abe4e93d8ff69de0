#!/bin/sh
# Install what the tests need beside Python, where this is Debian and root; else say what is missing.
# The tests start private servers of their own: none of these packages needs a running service.
set -eu
PATH="$PATH:/usr/sbin:/sbin"
missing=""

need() { # package, then the command that works if it is there
  package=$1
  shift
  "$@" >/dev/null 2>&1 || missing="$missing $package"
}
php_has() { php -r 'exit((int) !extension_loaded($argv[1]));' "$1"; }
perl_has() { perl "-M$1" -e 1; }

need gearman-job-server command -v gearmand
need gearman-tools command -v gearman
need mariadb-server-core command -v mariadbd
need galera-4 ls /usr/lib/galera/libgalera_smm.so
need mariadb-client-core command -v mariadb
need pgbouncer command -v pgbouncer
need postgresql ls /usr/lib/postgresql/*/bin/postgres
need libfaketime sh -c 'ls /usr/lib/*/faketime/libfaketimeMT.so.1'
need php-cli command -v php
need php-gearman php_has gearman
need php-mysql php_has pdo_mysql
need php-pgsql php_has pdo_pgsql
need php-sqlite3 php_has pdo_sqlite
need libgearman-client-perl perl_has Gearman::Worker
need libtheschwartz-perl perl_has TheSchwartz
need libdbd-mysql-perl perl_has DBD::mysql
need libdbd-pg-perl perl_has DBD::Pg
need libdbd-sqlite3-perl perl_has DBD::SQLite

test -n "$missing" || exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
  echo "missing, please install the packages:$missing" >&2
  exit 1
fi

# No cluster is made and started when PostgreSQL is installed.
settings=/etc/postgresql-common/createcluster.conf
case $missing in *postgresql*)
  mkdir -p "${settings%/*}"
  test -e $settings || echo "create_main_cluster = false" >$settings
  ;;
esac
apt-get update -qq
# The package with the version in its name has the server; `postgresql` depends on it.
server=$(apt-cache depends postgresql | sed -n 's/.*Depends: \(postgresql-[0-9]*\)$/\1/p' | head -n 1)
# shellcheck disable=SC2046,SC2086 # words are wanted
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \
  -o Dpkg::Options::=--force-confold -o DPkg::Lock::Timeout=120 \
  $(echo "$missing " | sed "s/ postgresql / ${server:-postgresql} /") >/dev/null
