# A Perl client that inserts a row with the original's columns only, then wakes the QueueRunners.
use strict;
use warnings;
use DBI qw(:sql_types);
use Gearman::Client;

my ($host, $port, $dsn, $user, $password, $now, $funcname, $delay, $hex) = @ARGV;

my $db = DBI->connect($dsn, $user, $password, {RaiseError => 1, PrintError => 0, AutoCommit => 1});
my $quote = $db->{Driver}{Name} eq 'mysql' ? '`' : '"';
my $insert = $db->prepare(
    "INSERT INTO job (funcname, run_after, uniqkey, ${quote}coalesce$quote, arg, flag)
     VALUES (?, $now + ?, ?, ?, ?, ?)"
);
my @values = ($funcname, $delay, "key of $funcname", 'group', pack('H*', $hex), 'shim');
for my $i (0 .. $#values) {
    my $binary = $db->{Driver}{Name} eq 'Pg' ? {pg_type => 17} : SQL_BLOB;    # 17: bytea
    $insert->bind_param($i + 1, $values[$i], $i == 4 ? $binary : $i == 1 ? SQL_INTEGER : SQL_VARCHAR);
}
$insert->execute;

my $gearman = Gearman::Client->new(job_servers => ["$host:$port"]);
$gearman->dispatch_background('garivini_wake', '', {uniq => 'wake'}) or die "no Gearman server\n";
