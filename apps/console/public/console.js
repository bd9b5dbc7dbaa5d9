// Reads the page again every five seconds while it is visible, and replaces its live parts. Without this script, a
// reload does the same.
const INTERVAL_MS = 5_000;
let readAt = new Date();

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { headers: { accept: 'text/html' } });
  if (answer.redirected) return location.reload(); // the session has ended
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
  for (const part of document.querySelectorAll('[data-live]')) replace(part, fresh.getElementById(part.id));
  readAt = new Date();
  showAge('');
}

function replace(part, now) {
  // Replacing what the keyboard or a selection points to would take it away from its user.
  if (part.contains(document.activeElement) || !getSelection().isCollapsed) return;
  if (!now || now.innerHTML === part.innerHTML) return;
  const scrolled = [...part.querySelectorAll('.scroll')].map(({ scrollLeft }) => scrollLeft);
  part.replaceWith(document.adoptNode(now));
  for (const [i, table] of now.querySelectorAll('.scroll').entries()) table.scrollLeft = scrolled[i] ?? 0;
}

function showAge(text) {
  document.getElementById('age').textContent = text;
}

if (document.querySelector('[data-live]')) {
  const showOld = () =>
    showAge(`Not updated since ${readAt.toISOString().slice(11, 19)}Z: the console does not answer.`);
  setInterval(() => refresh().catch(showOld), INTERVAL_MS);
}

const secrets = document.querySelectorAll('[data-copy]');
for (const secret of secrets) {
  if (!navigator.clipboard) continue; // not over HTTP from another host
  const button = document.createElement('button');
  button.textContent = 'Copy';
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(secret.textContent);
    button.textContent = 'Copied';
  });
  secret.after(' ', button);
}
// A reload would send the form again, and create another secret.
const back = document.querySelector('[data-back]');
if (secrets.length > 0 && back) history.replaceState(null, '', back.href);
