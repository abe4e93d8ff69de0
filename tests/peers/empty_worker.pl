# A worker whose function returns nothing.
use strict;
use warnings;
use Gearman::Worker;

my ($host, $port) = @ARGV;
my $worker = Gearman::Worker->new(job_servers => ["$host:$port"]);
$worker->register_function(nothing => sub { return '' });
$worker->work;
