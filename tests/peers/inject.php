<?php
// A PHP client that injects: it prints what each call is answered, or "failed".
[, $host, $port, $hex] = $argv;
$client = new GearmanClient();
$client->addServer($host, (int) $port);

function inject(array $job): void
{
    global $client;
    $answer = $client->doNormal('inject_jobs', json_encode($job));
    fwrite(STDOUT, ($client->returnCode() === GEARMAN_SUCCESS ? $answer : 'failed') . "\n");
}

inject(['funcname' => 'turn', 'arg' => 'Grüße', 'unique' => 'k', 'coalesce' => 'group']);
inject(['funcname' => 'turn', 'arg' => 'again', 'uniqkey' => 'k']);
inject(['funcname' => 'turn', 'arg' => 'later', 'run_after' => 3600]);
inject([['funcname' => 'turn', 'arg' => '1'], ['funcname' => 'turn', 'arg' => '2']]);
inject(['funcname' => 'turn', 'arg' => ['nested' => 1]]);
inject(['funcname' => 'turn', 'arg' => base64_encode(hex2bin($hex)), 'arg_encoding' => 'base64']);
