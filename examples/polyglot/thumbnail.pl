# A stock Gearman worker, called by the Controller. It uses neither our library nor the database.
use strict;
use warnings;
use Gearman::Worker;

my $worker = Gearman::Worker->new(job_servers => [$ENV{GARIVINI_JOB_SERVERS} || '127.0.0.1:4730']);
my %calls;

$worker->register_function(thumbnail => sub {
    my ($job) = @_;
    my $file = $job->arg;
    # The first two calls fail. Do not use die: Gearman::Worker ends itself after it.
    return $worker->send_work_exception($job, 'no space left') if ++$calls{$file} <= 2;
    for my $size (1 .. 3) {
        $worker->send_work_data($job, "made size $size of $file");
        $job->set_status($size, 3);
    }
    return "thumbs/$file";
});
$worker->work while 1;
