// Prints the sum of what the test runs reported, those that its arguments name: which tests failed, or passed only when they
// were tried again, and why; and then "N passed, N failed". A run without a report has failed.
import { readFileSync } from 'node:fs';

const reports = process.argv.slice(2).map((name) => {
  try {
    return JSON.parse(readFileSync(new URL(`../.reports/${name}.json`, import.meta.url), 'utf8'));
  } catch {
    const reason = 'it has not reported';
    return { passed: 0, failed: 1, troubles: { failed: [{ name: `the run ${name}`, reason }], triedAgain: [] } };
  }
});
const troubles = (kind) => reports.flatMap((report) => report.troubles[kind]);
const tell = (what, { name, reason }) => console.log(`${what}: ${name}\n${reason.replace(/^(?=.)/gm, '    ')}`);
for (const trouble of troubles('triedAgain')) tell('passed only when tried again', trouble);
for (const trouble of troubles('failed')) tell('failed', trouble);
const sum = (key) => reports.reduce((total, report) => total + report[key], 0);
console.log(`${sum('passed')} passed, ${sum('failed')} failed`);
