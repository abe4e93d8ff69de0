<?php
// A PHP worker that its test leads: `steps` does what the lines on its input say, `plain` completes at once.
[, $folder, $host, $port, $dsn, $user, $password] = $argv;
require "$folder/garivini.php";

$db = new PDO($dsn, $user, $password);
if ($db->getAttribute(PDO::ATTR_DRIVER_NAME) === 'mysql') {
    $db->exec('SET SESSION TRANSACTION ISOLATION LEVEL READ COMMITTED');
}

function say(string ...$words): void
{
    fwrite(STDOUT, implode(' ', $words) . "\n");
}

function job(GearmanJob $gearman): array
{
    return json_decode($gearman->workload(), true, flags: JSON_THROW_ON_ERROR);
}

function steps(GearmanJob $gearman): void
{
    global $db;
    $job = job($gearman);
    say('started', $job['jobid'], $job['attempt'], bin2hex(garivini_arg($job)));
    while (($line = fgets(STDIN)) !== false) {
        [$step, $value] = explode(' ', trim($line) . ' ');
        $done = match ($step) {
            'holds' => garivini_holds($db, $job),
            'renew' => garivini_renew($db, $job),
            'later' => garivini_later($db, $job, (int) $value),
            'fail' => garivini_fail($db, $job, new RuntimeException('Größe?'), $value ? (int) $value : 25),
            'complete' => garivini_complete($db, $job),
        };
        say($step, $done === false ? 'no' : 'yes');
        if (!in_array($step, ['holds', 'renew'])) {
            return;
        }
    }
}

function plain(GearmanJob $gearman): void
{
    global $db;
    $job = job($gearman);
    $arg = bin2hex(garivini_arg($job));
    garivini_complete($db, $job);
    say('done', $job['jobid'], $job['attempt'], $arg, $job['arg_encoding']);
}

$worker = new GearmanWorker();
$worker->addServer($host, (int) $port);
$worker->addFunction('steps', 'steps');
$worker->addFunction('plain', 'plain');
while ($worker->work());
