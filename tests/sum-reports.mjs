// Prints the sum of what the test runs reported, those that its arguments name: which tests passed only when they were tried
// again, and then "N passed, N failed". A run without a report has failed.
import { readFileSync } from 'node:fs';

const reports = process.argv.slice(2).map((name) => {
  try {
    return JSON.parse(readFileSync(new URL(`../.reports/${name}.json`, import.meta.url), 'utf8'));
  } catch {
    console.log(`${name} has not reported`);
    return { passed: 0, failed: 1, triedAgain: [] };
  }
});
for (const name of reports.flatMap(({ triedAgain }) => triedAgain))
  console.log(`passed only when tried again: ${name}`);
const sum = (key) => reports.reduce((total, report) => total + report[key], 0);
console.log(`${sum('passed')} passed, ${sum('failed')} failed`);
