<?php
// The shop needs a Gearman server only. One call stores both jobs, or none.
$client = new GearmanClient();
$client->addServers(getenv('GARIVINI_JOB_SERVERS') ?: '127.0.0.1:4730');
$client->setTimeout(10_000);  // milliseconds

$answer = $client->doNormal('inject_jobs', json_encode([
    ['funcname' => 'thumbnail', 'arg' => 'cat.png'],
    ['funcname' => 'mail', 'arg' => json_encode(['to' => 'ada@example.org']), 'flag' => 'shim'],
]));
if ($client->returnCode() !== GEARMAN_SUCCESS) {
    throw new RuntimeException('the jobs may not have been stored; repeat the call only with unique keys');
}
foreach (json_decode($answer) as $job) {
    echo $job->jobid, "\n";
}
