import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { stripVTControlCharacters } from 'node:util';

const MAX_REASON_LINES = 20;

/**
 * Writes {passed, failed, skipped, failures}, which `npm test` and CI sum up; failures is a list of {name, reason}. A
 * file that could not run or that leaked resources counts as one failure.
 */
export default class Report {
  constructor({ rootDir }) {
    this.directory = join(rootDir, '.reports', `node-${process.versions.node.split('.')[0]}`);
  }

  async onRunComplete([{ config } = {}], results) {
    if (!config) return; // no test file was found
    // In containers it is another run, beside the one with the servers that are found.
    const { name } = config.displayName;
    const servers = name === 'integration' ? process.env.OPM_TEST_SERVERS : undefined;
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
    await mkdir(this.directory, { recursive: true });
    await writeFile(join(this.directory, `${name}${servers ? `-${servers}` : ''}.json`), `${JSON.stringify(report)}\n`);
  }
}

/** The message of the first error, without its stack. */
function toReason([message = '']) {
  const lines = stripVTControlCharacters(message).trim().split('\n');
  const stack = lines.findIndex((line) => /^\s+at /.test(line));
  return lines.slice(0, stack === -1 ? MAX_REASON_LINES : Math.min(stack, MAX_REASON_LINES)).join('\n');
}
