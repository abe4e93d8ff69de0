<?php
// A worker as it stood before Garivini came: it turns what it gets around, or does what its words say.
[, $host, $port] = $argv;
$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction('turn', fn (GearmanJob $job): string => strrev($job->workload()));
$worker->addFunction('read', fn (GearmanJob $job): string
    => bin2hex(iconv('UTF-8', 'ISO-8859-1', json_decode($job->workload())->arg)));
$worker->addFunction('act', function (GearmanJob $job) {
    [$word, $text] = explode(' ', $job->workload(), 2) + [1 => ''];
    switch ($word) {
        case 'die':
            $job->sendException($text);
            return;
        case 'fail':
            $job->sendFail();
            return;
        case 'report':
            $job->sendStatus(3, 4);
            $job->sendData('a line');
            $job->sendWarning('beware');
    }
    return $text;
});
while ($worker->work());
