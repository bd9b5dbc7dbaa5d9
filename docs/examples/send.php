<?php

// Sends the lines of an NDJSON file to OPM Partners API, in batches. Needs PHP 8.1 or newer and no framework; for https,
// the extension openssl.
//
//     OPM_URL=https://api.example.com OPM_KEY=opm_your_key php send.php entries.ndjson receipts.ndjson
//
// Prints each rejected line, and appends the receipt of each accepted one to the second file. The exit code is 1 if a line
// was rejected, and 2 if the API could not take the rest: the message names the line to go on from.

declare(strict_types=1);

const MAX_ENTRIES = 1_000;
const MAX_BYTES = 1_024 * 1_024;
const TRANSIENT = [408, 429, 500, 502, 503, 504];
const MAX_FAILURES = 15; // in a row; with the pauses between them, about ten minutes

/** Yields arrays of lines, by their numbers. */
function readBatches(string $path): Generator
{
    [$batch, $size] = [[], 0];
    foreach (new SplFileObject($path) as $index => $line) {
        $line = trim($line);
        if ($batch && (count($batch) === MAX_ENTRIES || $size + strlen($line) + 1 > MAX_BYTES)) {
            yield $batch;
            [$batch, $size] = [[], 0];
        }
        if ($line !== '') {
            $batch[$index + 1] = $line;
            $size += strlen($line) + 1;
        }
    }
    if ($batch) yield $batch;
}

/** Makes one attempt. Returns the status, the parsed answer and the seconds in retry-after, if there are any. */
function post(string $body, ?string $idempotencyKey): array
{
    $headers = ['x-api-key: ' . getenv('OPM_KEY'), 'content-type: application/x-ndjson'];
    if ($idempotencyKey !== null) $headers[] = "idempotency-key: $idempotencyKey";
    $http = ['method' => 'POST', 'header' => $headers, 'content' => $body, 'timeout' => 10];
    $context = stream_context_create(['http' => $http + ['ignore_errors' => true, 'follow_location' => 0]]);
    $stream = @fopen(rtrim(getenv('OPM_URL'), '/') . '/entries', 'r', false, $context);
    $text = $stream ? stream_get_contents($stream) : '';
    $meta = $stream ? stream_get_meta_data($stream) : null;
    if (!$meta || $meta['timed_out']) return [503, ['message' => 'no answer'], null];
    $head = implode("\n", $meta['wrapper_data']);
    preg_match('#^HTTP/\S+ (\d+)#', $head, $status);
    preg_match('#^retry-after: *(\d+)$#im', $head, $retryAfter);
    $answer = json_decode($text, true);
    $isCut = $answer === null && $status[1] < 400;
    // A gateway in front of the API may answer anything.
    if (!is_string($answer['message'] ?? null)) $answer = ['message' => $isCut ? 'no answer' : 'not an answer of the API'];
    return [$isCut ? 503 : (int) $status[1], $answer, isset($retryAfter[1]) ? (int) $retryAfter[1] : null];
}

/**
 * Sends a batch until each line is accepted or rejected. Returns the result and receipt of each, by its number.
 *
 * All attempts have one key and the same lines, so no line counts twice. If the API asks to send without a key, attempts
 * have only the lines that are left; after a lost answer, a line may then count twice, but the same is stored.
 */
function send(array $batch): array
{
    [$idempotencyKey, $done, $failures] = [bin2hex(random_bytes(16)), [], 0];
    while (true) {
        $lines = $idempotencyKey === null ? array_diff_key($batch, $done) : $batch;
        [$status, $answer, $retryAfter] = post(implode("\n", $lines), $idempotencyKey);
        if ($status === 429 && $idempotencyKey !== null && str_contains($answer['message'], 'too many idempotency keys')) {
            $idempotencyKey = null;
            continue;
        }
        [$doneBefore, $numbers] = [count($done), array_keys($lines)];
        foreach ($answer['results'] ?? [] as $i => $result) {
            if (in_array($result['statusCode'], TRANSIENT, true)) continue;
            $done[$numbers[$i]] = $result + ['receipt' => $answer['receipts'][$i] ?? null];
        }
        if (count($done) === count($batch)) return $done;
        $failures = count($done) > $doneBefore ? 0 : $failures + 1;
        $isTransient = isset($answer['results']) || in_array($status, TRANSIENT, true);
        if (!$isTransient || $failures === MAX_FAILURES) {
            fwrite(STDERR, 'gave up at line ' . array_key_first($batch) . ": $status {$answer['message']}\n");
            exit(2);
        }
        $pause = min(60, 2 ** max(0, $failures - 1)) * random_int(75, 125) / 100;
        usleep((int) (1e6 * ($retryAfter ?? $pause)));
    }
}

$rejected = 0;
foreach (readBatches($argv[1]) as $batch) {
    $results = send($batch);
    foreach ($batch as $number => $line) {
        $result = $results[$number];
        if (in_array($result['statusCode'], [201, 202], true)) {
            $customerId = json_decode($line, true)['customerId'];
            $kept = ['line' => $number, 'customerId' => $customerId, 'receipt' => $result['receipt']];
            file_put_contents($argv[2], json_encode($kept) . "\n", FILE_APPEND);
        } else {
            $rejected++;
            fwrite(STDERR, "$argv[1]:$number: {$result['statusCode']} {$result['message']}\n");
        }
    }
}
exit($rejected > 0 ? 1 : 0);
