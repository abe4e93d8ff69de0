# A worker as it stood before Garivini came: it turns what it gets around, or does what its words say.
use strict;
use warnings;
use Gearman::Worker;
use JSON::PP;

my ($host, $port) = @ARGV;
my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(turn => sub { scalar reverse $_[0]->arg });
$worker->register_function(read => sub { unpack 'H*', decode_json($_[0]->arg)->{arg} });
$worker->register_function(act => sub {
    my ($job) = @_;
    my ($word, $text) = split / /, $job->arg, 2;
    # Not die: for that Gearman::Worker sends WORK_FAIL as well, and ends itself by the server's answer.
    return $worker->send_work_exception($job, $text) if $word eq 'die';
    return undef if $word eq 'fail';
    if ($word eq 'report') {
        $job->set_status(3, 4);
        $worker->send_work_data($job, 'a line');
        $worker->send_work_warning($job, 'beware');
    }
    return $text // '';
});
$worker->work;
