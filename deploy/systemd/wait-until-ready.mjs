// The last step of a unit's start: waits until /readyz on this internal port answers 200. Fails if the process has
// ended; otherwise systemd's TimeoutStartSec is the limit.
import { setTimeout as delay } from 'node:timers/promises';

const { INTERNAL_HOST, MAINPID } = process.env;
const url = `http://${INTERNAL_HOST}:${process.argv[2]}/readyz`;

async function isReady() {
  const answer = await fetch(url, { signal: AbortSignal.timeout(5_000) }).catch(() => undefined);
  return answer?.ok;
}

function hasEnded() {
  try {
    return !process.kill(Number(MAINPID), 0);
  } catch {
    return true;
  }
}

while (!(await isReady())) {
  if (hasEnded()) process.exit(1); // It has written the reason.
  await delay(250);
}
