# A Perl client that injects: it prints what each call is answered, or the reason why nothing was stored.
use strict;
use warnings;
use Gearman::Client;
use JSON::PP qw(encode_json);

my ($host, $port, $hex) = @ARGV;
my $client = Gearman::Client->new(job_servers => ["$host:$port"]);
$| = 1;

sub inject {
    my ($job) = @_;
    my $answer = $client->do_task('inject_jobs', encode_json($job), {on_warning => sub { print ${$_[0]} }});
    print "$$answer\n" if defined $answer;
}

inject({funcname => 'turn', arg => "Gr\x{fc}\x{df}e", unique => 'k', coalesce => 'group'});
inject({funcname => 'turn', arg => 'again', uniqkey => 'k'});
inject({funcname => 'turn', arg => 'later', run_after => 3600});
inject([map { {funcname => 'turn', arg => $_} } 1, 2]);
inject({funcname => 'turn', arg => {nested => 1}});
inject({funcname => 'turn', arg => pack('H*', $hex), arg_encoding => 'latin-1'});
