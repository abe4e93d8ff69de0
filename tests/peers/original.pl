# A worker as the Perl system has them: it puts a job off by its time alone, `UPDATE job SET run_after = now + n`. The
# argument is n. The second time it deletes the job. It prints each start, and when the job is due again.
use strict;
use warnings;
use DBI;
use Gearman::Worker;
use JSON::PP qw(decode_json);

my ($host, $port, $now, $precise, $dsn, $user, $password) = @ARGV;
my $db = DBI->connect($dsn, $user, $password, {RaiseError => 1, PrintError => 0, AutoCommit => 1});
my %seen;

sub put_off {
    my $job = decode_json($_[0]->arg);
    my ($jobid, $seconds) = @$job{qw(jobid arg)};
    my ($time) = $db->selectrow_array("SELECT $precise");
    my $due = 0;
    if ($seen{$jobid}++) {
        $db->do('DELETE FROM job WHERE jobid = ?', undef, $jobid);
    }
    else {
        my $when = $seconds eq 'never' ? 2147483647 : "$now + $seconds";
        $db->do("UPDATE job SET run_after = $when WHERE jobid = $jobid");
        ($due) = $db->selectrow_array("SELECT run_after FROM job WHERE jobid = $jobid");
    }
    syswrite STDOUT, "started $jobid $time $due\n";
    return 1;
}

my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(put_off => \&put_off);
$worker->work;
