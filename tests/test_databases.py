"""How a user names databases, in every form, and that no password gets into a message."""

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import create_engine, make_url

from garivini.databases import DatabaseSettings, parse_databases
from garivini.databases.dsn import parse_dsn
from garivini.databases.urls import without_password
from garivini.errors import UsageError


def targets(dbs: Any) -> dict[int, Any]:
    return {entry.dbid: entry.target for entry in parse_databases(dbs)}


# ---- forms


def test_an_id_may_be_written_before_a_url() -> None:
    for dbs in (["sqlite:///a.db", "3=sqlite:///c.db"], "sqlite:///a.db 3=sqlite:///c.db"):
        found = [(entry.dbid, entry.target) for entry in parse_databases(dbs)]
        assert found == [(1, "sqlite:///a.db"), (3, "sqlite:///c.db")]
    assert [entry.dbid for entry in parse_databases("7=sqlite:///a.db")] == [7]
    with pytest.raises(UsageError, match="two databases have the same id"):
        parse_databases(["sqlite:///a.db", "1=sqlite:///c.db"])


def test_one_url_is_database_1() -> None:
    assert targets("sqlite:///jobs.db") == {1: "sqlite:///jobs.db"}


def test_in_a_list_the_position_from_1_is_the_id() -> None:
    assert targets(["sqlite:///a.db", "sqlite:///b.db"]) == {1: "sqlite:///a.db", 2: "sqlite:///b.db"}


def test_a_mapping_names_the_ids() -> None:
    assert targets({7: "sqlite:///a.db", "12": "sqlite:///b.db"}) == {
        7: "sqlite:///a.db",
        12: "sqlite:///b.db",
    }


def test_the_mapping_of_the_original_is_taken_as_it_stands() -> None:
    dbs = {1: {"id": 1, "dsn": "DBI:mysql:job:host=127.0.0.1", "user": "job", "pass": "secret"}}
    assert targets(dbs) == {1: "mysql://job:secret@127.0.0.1/job"}


def test_an_entry_of_the_original_may_leave_out_id_user_and_password() -> None:
    assert targets({"2": {"dsn": "dbi:SQLite:dbname=jobs.db"}}) == {2: "sqlite:///jobs.db"}


def test_engines_are_taken_alone_in_a_list_and_in_a_mapping() -> None:
    engine = create_engine("sqlite://")
    assert targets(engine) == {1: engine}
    assert targets(["sqlite:///a.db", engine]) == {1: "sqlite:///a.db", 2: engine}
    assert targets({3: engine}) == {3: engine}


# ---- data sources


@pytest.mark.parametrize(
    ("dsn", "url"),
    [
        ("DBI:mysql:job:host=127.0.0.1", "mysql://127.0.0.1/job"),
        ("DBI:mysql:job:host=127.0.0.1;port=3306", "mysql://127.0.0.1:3306/job"),
        ("dbi:mysql:database=job;host=db.example;port=3307", "mysql://db.example:3307/job"),
        ("dbi:mysql:dbname=job", "mysql://localhost/job"),
        ("dbi:mysql:job", "mysql://localhost/job"),
        ("dbi:mysql:database=job;host=[::1];port=3306", "mysql://[::1]:3306/job"),
        ("dbi:MariaDB:db=job;hostname=h", "mysql://h/job"),
        ("dbi:mysql(RaiseError=>1):job", "mysql://localhost/job"),
        ("DBI:mysql:job:host=127.0.0.1;database=job", "mysql://127.0.0.1/job"),
        ("dbi:MySQL:DATABASE=job;Host=h;PORT=3307", "mysql://h:3307/job"),
        (
            "dbi:mysql:job;mysql_socket=/run/my.sock",
            "mysql://localhost/job?unix_socket=/run/my.sock",
        ),
        ("dbi:mysql:job;host=10.0.0.1;mysql_socket=/run/my.sock", "mysql://10.0.0.1/job"),
        (
            "dbi:mysql:job;mysql_enable_utf8=1;mysql_enable_utf8mb4=1;mysql_auto_reconnect=1",
            "mysql://localhost/job",
        ),
        (
            "dbi:mysql:job;mysql_connect_timeout=3;mysql_read_timeout=0",
            "mysql://localhost/job?connect_timeout=3",
        ),
        ("dbi:mysql:job;mysql_ssl=1", "mysql://localhost/job?ssl_mode=REQUIRED"),
        (
            "dbi:mysql:job;mysql_ssl=1;mysql_ssl_ca_file=/ca.pem;mysql_ssl_verify_server_cert=1",
            "mysql://localhost/job?ssl_mode=VERIFY_IDENTITY&ssl_ca=/ca.pem",
        ),
        (
            "dbi:mysql:job;mysql_init_command=SET time_zone='UTC'",
            "mysql://localhost/job?init_command=SET%20time_zone%3D%27UTC%27",
        ),
        ("dbi:MariaDB:job;mariadb_connect_timeout=3", "mysql://localhost/job?connect_timeout=3"),
        (
            "dbi:mysql(RaiseError=>1, mysql_enable_utf8 => 1,mysql_connect_timeout=>'3',Username=>u):job",
            "mysql://u@localhost/job?connect_timeout=3",
        ),
        ("dbi:Pg(AutoCommit=>0,pg_enable_utf8=>1):dbname=job;host=h", "postgresql://h/job"),
        ("dbi:Pg:dbname=job;host=/run/postgresql", "postgresql:///job?host=/run/postgresql"),
        ("dbi:Pg:dbname=job;host=a,b;port=1,2", "postgresql:///job?host=a%2Cb&port=1%2C2"),
        ("dbi:Pg:service=jobs", "postgresql:///?service=jobs"),
        (
            "dbi:Pg:dbname=job;host=h;sslmode=require;connect_timeout=3;options=-c x=1",
            "postgresql://h/job?sslmode=require&connect_timeout=3&options=-c%20x%3D1",
        ),
        ("dbi:SQLite(sqlite_unicode=>1):dbname=jobs.db", "sqlite:///jobs.db"),
        ("dbi:SQLite:dbname=jobs.db;sqlite_string_mode=6", "sqlite:///jobs.db"),
        ("dbi:SQLite:uri=file:/srv/jobs.db?mode=rw", "sqlite:///file:/srv/jobs.db?mode=rw&uri=true"),
        ("dbi:Pg:dbname=job;host=h;port=5432", "postgresql://h:5432/job"),
        ("dbi:Pg:dbname=job;user=u;password=p", "postgresql://u:p@localhost/job"),
        ("dbi:SQLite:dbname=jobs.db", "sqlite:///jobs.db"),
        ("dbi:SQLite:/var/lib/jobs.db", "sqlite:////var/lib/jobs.db"),
    ],
)
def test_a_data_source_becomes_a_url(dsn: str, url: str) -> None:
    assert parse_dsn(dsn) == url


def test_a_colon_in_the_path_of_sqlite_is_part_of_it() -> None:
    assert make_url(parse_dsn("dbi:SQLite:dbname=/srv/a:b.db")).database == "/srv/a:b.db"


def test_a_url_in_place_of_a_data_source_stays_and_gets_the_account_it_lacks() -> None:
    assert parse_dsn("postgresql://h/job") == "postgresql://h/job"
    assert parse_dsn("postgresql://h/job", "u", "p") == "postgresql://u:p@h/job"
    assert parse_dsn("postgresql://a:b@h/job", "u", "p") == "postgresql://a:b@h/job"


ODD = st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20)


@settings(max_examples=50)
@given(user=ODD, password=ODD)
def test_an_odd_user_or_password_arrives_as_it_is(user: str, password: str) -> None:
    url = make_url(parse_dsn("DBI:mysql:job:host=h;port=1", user, password))
    assert (url.username, url.password, url.host, url.port, url.database) == (user, password, "h", 1, "job")


@pytest.mark.parametrize("name", ["/tmp/what?.db", "/tmp/50%25.db", "/tmp/a#b.db", "/tmp/mit Raum/ä.db"])
def test_an_odd_path_arrives_as_it_is(name: str) -> None:
    assert make_url(parse_dsn(f"dbi:SQLite:dbname={name}")).database == name


def test_an_odd_database_name_arrives_as_it_is() -> None:
    assert make_url(parse_dsn("dbi:mysql:database=my jobs%41?")).database == "my jobs%41?"


# ---- mistakes


@pytest.mark.parametrize(
    ("dbs", "reason"),
    [
        ([], "no database"),
        ({}, "no database"),
        ("", "no URL"),
        (None, "no URL"),
        (["sqlite:///a.db", None], "database 2 has no URL"),
        ({"x": "sqlite:///a.db"}, "'x' is not the id of a database"),
        ({0: "sqlite:///a.db"}, "0 is not the id of a database"),
        ({-1: "sqlite:///a.db"}, "-1 is not the id of a database"),
        ({2**31: "sqlite:///a.db"}, "is not the id of a database"),
        ({1.5: "sqlite:///a.db"}, "1.5 is not the id of a database"),
        ({True: "sqlite:///a.db"}, "True is not the id of a database"),
        ({None: "sqlite:///a.db"}, "None is not the id of a database"),
        ({1: "sqlite:///a.db", "1": "sqlite:///b.db"}, "same id"),
        ({1: {"id": 2, "dsn": "dbi:mysql:job"}}, "database 1 has another id in its settings: 2"),
        ({1: {"id": "x", "dsn": "dbi:mysql:job"}}, "'x' is not the id of a database"),
        ({1: {"id": None, "dsn": "dbi:mysql:job"}}, "None is not the id of a database"),
        ({1: {"id": 1}}, "database 1 has no dsn"),
        ({1: {"dsn": None}}, "database 1 has no dsn"),
        ({1: {"dsn": 5}}, "dsn, user and pass are text"),
        ({1: {"dsn": "dbi:mysql:job", "user": "u", "pass": 1234}}, "dsn, user and pass are text"),
    ],
)
def test_a_mistake_is_named(dbs: Any, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_databases(dbs)


@pytest.mark.parametrize(
    ("dsn", "reason"),
    [
        ("jobs.db", "write a URL"),
        ("dbi", "write a URL"),
        ("dbi:Oracle:job", "driver of mysql, mariadb, pg, sqlite"),
        ("odbc:mysql:job", "write a URL"),
        ("dbi:mysql:", "names no database"),
        ("dbi:mysql:host=h", "names no database"),
        ("dbi:mysql:job;mysql_server_pubkey=k", "part 'mysql_server_pubkey'"),
        ("dbi:mysql:job;mysql_conect_timeout=3", "part 'mysql_conect_timeout'.*did you mean connect_timeout"),
        ("dbi:mysql:job;hst=h", "part 2 .*did you mean host"),
        ("dbi:SQLite:jobs.db;sqlite_open_flags=1", "part 'sqlite_open_flags'"),
        ("dbi:mysql:job:other", "two databases"),
        ("dbi:mysql:job;database=other", "two databases"),
        ("dbi:mysql:database=job;host=::1", "brackets"),
    ],
)
def test_a_data_source_that_cannot_be_read_is_refused(dsn: str, reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        parse_dsn(dsn)


def test_bytes_are_no_list_of_databases() -> None:
    assert targets(b"sqlite:///a.db") == {1: b"sqlite:///a.db"}


# ---- passwords


def test_the_settings_of_a_database_do_not_print_its_password() -> None:
    settings = DatabaseSettings(1, "mysql://job:secret@h/job")
    assert "secret" not in repr(settings)
    assert "secret" not in str([settings])


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("mysql://job:secret@h:3306/job", "mysql://job@h:3306/job"),
        ("mysql://job:se@cret@h/job", "mysql://job@h/job"),
        ("mysql://job@h/job", "mysql://job@h/job"),
        ("sqlite:///jobs.db", "sqlite:///jobs.db"),
        # Without a scheme it may be a piece of a password with white space in it.
        ("job:secret@h/job", "***"),
        ("mysql://h/job?user=job&password=secret&x=1", "mysql://h/job"),
        ("mysql://job:secret@[::1]:3306/job", "mysql://job@[::1]:3306/job"),
        ("mysql://job:sec/ret@h,h2:1/job", "mysql://job@h,h2:1/job"),
        ("mysql://:secret@h/job", "mysql://h/job"),
        ("mysql://job:secret@/job?unix_socket=%2Fx&charset=x", "mysql://job@/job?unix_socket=/x"),
        ("mysql://h/job?unix_socket=/x%20secret", "mysql://h/job"),
        ("mysql://u%3Asecret@h/job", "mysql://***@h/job"),
        ("mysql://u:secret", "***"),
        ("mysql://u:x@h/job,mysql://u:secret@h/job", "***"),
        ("mysql://u:x@h/job&password=secret", "***"),
        ("postgresql://h:5432/job?password=x@secret", "***"),
        ("sqlite:///a@b/jobs.db", "sqlite:///a@b/jobs.db"),
        ("sqlite:///jobs.db;password=secret", "***"),
        ("jobs.db", "***"),
        ("", ""),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@pytest.mark.parametrize("dsn", ["Oracle:job;password=secret", "dbi:mysql:job;password=secret;x=1"])
def test_a_refused_data_source_does_not_tell_its_password(dsn: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_dsn(dsn)
    assert "secret" not in str(caught.value)
