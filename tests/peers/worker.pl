# A Perl worker that its test leads: `steps` does what the lines on its input say, `plain` completes at once.
use strict;
use warnings;
use utf8;
use DBI;
use Gearman::Worker;
use JSON::PP qw(decode_json);

my ($folder, $host, $port, $dsn, $user, $password) = @ARGV;
require "$folder/GariviniShim.pm";

my $db = DBI->connect($dsn, $user, $password, {RaiseError => 1, PrintError => 0, AutoCommit => 1});
my $driver = $db->{Driver}{Name};
$db->{mysql_enable_utf8mb4} = 1 if $driver eq 'mysql';
$db->{sqlite_unicode} = 1 if $driver eq 'SQLite';
$db->do('SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED') if $driver eq 'mysql';

sub say_words {
    syswrite STDOUT, "@_\n";
}

sub steps {
    my $job = decode_json($_[0]->arg);
    say_words('started', @$job{qw(jobid attempt)}, unpack('H*', GariviniShim::arg($job)));
    while (my $line = <STDIN>) {
        my ($step, $value) = split ' ', $line;
        my $done
            = $step eq 'holds' ? GariviniShim::holds($db, $job)
            : $step eq 'renew' ? GariviniShim::renew($db, $job)
            : $step eq 'later' ? GariviniShim::later($db, $job, $value)
            : $step eq 'fail'  ? GariviniShim::fail($db, $job, 'RuntimeException', 'Größe?', $value || 25)
            :                    GariviniShim::complete($db, $job);
        say_words($step, $done ? 'yes' : 'no');
        last unless $step eq 'holds' || $step eq 'renew';
    }
    return 1;
}

sub plain {
    my $job = decode_json($_[0]->arg);
    my $arg = unpack 'H*', GariviniShim::arg($job);
    GariviniShim::complete($db, $job);
    say_words('done', @$job{qw(jobid attempt)}, $arg, $job->{arg_encoding});
    return 1;
}

my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(steps => \&steps);
$worker->register_function(plain => \&plain);
$worker->work;
