<?php
// A worker as it stood before Garivini came: it turns what it gets around.
[, $host, $port] = $argv;
$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction('turn', fn (GearmanJob $job): string => strrev($job->workload()));
while ($worker->work());
