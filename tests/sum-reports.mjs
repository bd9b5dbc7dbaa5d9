// Sums the reports of the test runs that the arguments name. Prints each failed test with its reason, then "N passed, N
// failed". A run without a report counts as a failure. Exits with 1 if anything failed.
import { readFileSync } from 'node:fs';

const reports = process.argv.slice(2).map((name) => {
  try {
    return JSON.parse(readFileSync(new URL(`../.reports/${name}.json`, import.meta.url), 'utf8'));
  } catch {
    return { passed: 0, failed: 1, failures: [{ name: `the run ${name}`, reason: 'it wrote no report' }] };
  }
});
for (const { name, reason } of reports.flatMap(({ failures }) => failures)) {
  console.log(`failed: ${name}\n${reason.replace(/^(?=.)/gm, '    ')}`);
}
const sum = (key) => reports.reduce((total, report) => total + report[key], 0);
console.log(`${sum('passed')} passed, ${sum('failed')} failed`);
if (sum('failed') > 0) process.exitCode = 1;
