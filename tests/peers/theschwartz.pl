# A client and a worker of TheSchwartz, which insert jobs, let some of them fail, and hold one.
use strict;
use warnings;
use TheSchwartz;
use TheSchwartz::Job;

package Failing;
use parent 'TheSchwartz::Worker';
sub work { my ($class, $job) = @_; $job->failed('no answer from ' . $job->arg) }
sub max_retries { 5 }
sub retry_delay { 0 }
sub keep_exit_status_for { 3600 }

package Holding;
use parent 'TheSchwartz::Worker';
sub work { print "held\n"; exit 0 }    # as if it was killed: the job stays grabbed
sub grab_for { 7200 }

package main;
my ($dsn, $user, $password, $later) = @ARGV;
my $client = TheSchwartz->new(databases => [{dsn => $dsn, user => $user, pass => $password}]);
my $add = sub { $client->insert(TheSchwartz::Job->new(@_)) or die "not inserted\n" };
$add->(funcname => 'plain', arg => pack('H*', '00ff80'));
$add->(funcname => 'keyed', arg => 'one', uniqkey => 'key', coalesce => 'group', priority => 3);
$add->(funcname => 'later', arg => 'x', run_after => $later);
$add->(funcname => 'Failing', arg => 'host');
$add->(funcname => 'data', arg => {of => 'Perl'});
$client->can_do('Failing');
$client->work_once for 1 .. 2;
$add->(funcname => 'Holding', arg => '');
$client->reset_abilities;
$client->can_do('Holding');
$client->work_once;
