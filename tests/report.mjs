import { mkdir, writeFile } from 'node:fs/promises';
import { dirname, resolve } from 'node:path';

/** Writes {passed, failed, skipped, triedAgain} for CI to sum up. A file that could not run, or leaked, counts as one failure. */
export default class Report {
  constructor(globalConfig, { outputFile }) {
    this.outputFile = resolve(globalConfig.rootDir, outputFile);
  }

  async onRunComplete(_contexts, results) {
    const report = {
      passed: results.numPassedTests,
      failed: results.numFailedTests + results.numRuntimeErrorTestSuites,
      skipped: results.numPendingTests + results.numTodoTests,
      triedAgain: results.testResults
        .flatMap(({ testResults }) => testResults)
        .filter(({ status, invocations }) => status === 'passed' && invocations > 1)
        .map(({ fullName }) => fullName),
    };
    await mkdir(dirname(this.outputFile), { recursive: true });
    await writeFile(this.outputFile, `${JSON.stringify(report)}\n`);
  }
}
