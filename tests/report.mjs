import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const MAX_REASON_LINES = 20;

/**
 * Writes {passed, failed, skipped, failures} for `npm test` and CI to sum up; failures is a list of {name, reason}. A file that
 * could not run, or leaked, counts as one failure.
 */
export default class Report {
  constructor(globalConfig, { outputFile }) {
    this.outputFile = resolve(globalConfig.rootDir, outputFile);
  }

  async onRunComplete(_contexts, results) {
    const tests = results.testResults.flatMap(({ testResults }) => testResults);
    const files = results.testResults.filter(({ testExecError }) => testExecError);
    const report = {
      passed: results.numPassedTests,
      failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
      skipped: results.numPendingTests + results.numTodoTests,
      failures: [
        ...tests
          .filter(({ status }) => status === 'failed')
          .map(({ fullName, failureMessages }) => ({ name: fullName, reason: toReason(failureMessages) })),
        ...files.map(({ testFilePath, failureMessage }) => ({
          name: testFilePath,
          reason: toReason([failureMessage]),
        })),
      ],
    };
    await mkdir(dirname(this.outputFile), { recursive: true });
    await writeFile(this.outputFile, `${JSON.stringify(report)}\n`);
  }
}

/** What the first error says, without the places in the code that it came by. */
function toReason([message = '']) {
  const lines = stripVTControlCharacters(message).trim().split('\n');
  const stack = lines.findIndex((line) => /^\s+at /.test(line));
  return lines.slice(0, stack === -1 ? MAX_REASON_LINES : Math.min(stack, MAX_REASON_LINES)).join('\n');
}
