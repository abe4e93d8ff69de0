# A worker as it stood before Garivini came: it turns what it gets around.
use strict;
use warnings;
use Gearman::Worker;

my ($host, $port) = @ARGV;
my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(turn => sub { scalar reverse $_[0]->arg });
$worker->work;
