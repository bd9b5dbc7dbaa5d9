import { MASK } from './mask-job-data.js';

/** Openings of error messages that hold no value of an entry. What follows them may, and is cut off. */
const HARMLESS_OPENINGS = [
  /^job stalled more than allowable limit$/,
  /^job data is not a chunk(?:: data[\w/]* must [\w ']+)?/,
  /^(?:connect |read |write )?E(?:CONNREFUSED|CONNRESET|TIMEDOUT|PIPE|HOSTUNREACH|NOTFOUND)\b/,
  /^Connection terminated(?: unexpectedly)?$/,
  /^\s*(?:Invalid `[\w.$]+\(\)` invocation:\s+)?Raw query failed\. Code: `[0-9A-Z]{5}`/,
  /^deadlock detected$/,
  /^canceling statement due to [a-z ]+$/,
  /^terminating connection due to [a-z ]+$/,
  /^invalid byte sequence for encoding "\w+"/,
  /^invalid input syntax for type \w+/,
  /^value too long for type [a-z ]+\(\d+\)$/,
  /^null value in column "\w+" of relation "\w+" violates not-null constraint/,
  /^duplicate key value violates unique constraint "\w+"/,
];
const ERROR_HEAD = /^([A-Z][A-Za-z]{0,60}(?:Error|Fault|Chunk)): (.*)$/;
const STACK_FRAME = /^ {4}at (?:[\w$.<>#[\] ]+ \()?(?:file:|node:|\/)[\w$@./:%+-]+:\d+:\d+\)?$/;

/** What of an error's message is surely no one's data, such as an SQLSTATE. Postgres quotes values in the rest. */
export function maskErrorMessage(message: string): string {
  for (const opening of HARMLESS_OPENINGS) {
    const [harmless] = opening.exec(message) ?? [];
    if (harmless !== undefined) return harmless === message ? message : `${harmless.trim()} ${MASK}`;
  }
  return MASK;
}

/** The error's class, what {@link maskErrorMessage} shows of its message, and the places in the code. */
export function maskStackTrace(stackTrace: string): string {
  const [firstLine = '', ...lines] = stackTrace.split('\n');
  const [, errorClass, message] = ERROR_HEAD.exec(firstLine) ?? [];
  const head = errorClass && message !== undefined ? `${errorClass}: ${maskErrorMessage(message)}` : MASK;
  return [head, ...lines.filter((line) => STACK_FRAME.test(line))].join('\n');
}
