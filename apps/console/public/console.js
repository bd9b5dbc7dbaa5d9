// Keeps the live parts of a visible page up to date. Without this script, a reload does the same.
const RETRY_MS = 5_000;
const SILENT_MS = 15_000;

// The Bull dashboard preloads scripts that most of its pages do not use, and browsers warn of each.
document.head.appendChild = (node) =>
  node.rel === 'preload' && node.as === 'script' ? node : Node.prototype.appendChild.call(document.head, node);

let [updatedAt, latest] = [new Date(), undefined];
let source;
let timer;

// A hidden page has no stream, because browsers open only six connections to a host.
function connect() {
  source?.close();
  clearTimeout(timer);
  if (document.hidden) return;
  source = new EventSource(location.href);
  source.addEventListener('page', ({ data }) => update(new DOMParser().parseFromString(JSON.parse(data), 'text/html')));
  source.addEventListener('same', () => update(latest));
  source.addEventListener('error', () => source.readyState === EventSource.CLOSED && reconnect());
  timer = setTimeout(reconnect, SILENT_MS);
}

function update(page) {
  latest = page;
  const parts = [...document.querySelectorAll('[data-live]')];
  const areCurrent = parts.map((part) => replace(part, page?.getElementById(part.id))).every(Boolean);
  if (areCurrent) updatedAt = new Date();
  showAge(areCurrent ? '' : toAge());
  clearTimeout(timer);
  timer = setTimeout(reconnect, SILENT_MS);
}

/** @returns whether the part is current */
function replace(part, now) {
  if (now?.innerHTML === part.innerHTML) return true;
  // Replacing what the keyboard or a selection points to would take it away from its user.
  if (!now || part.contains(document.activeElement) || !getSelection().isCollapsed) return false;
  const scrolled = [...part.querySelectorAll('.scroll')].map(({ scrollLeft }) => scrollLeft);
  part.replaceWith(document.importNode(now, true));
  for (const [i, table] of document.getElementById(now.id).querySelectorAll('.scroll').entries()) {
    table.scrollLeft = scrolled[i] ?? 0;
  }
  return true;
}

async function reconnect() {
  showAge(toAge());
  source.close();
  clearTimeout(timer);
  timer = setTimeout(connect, RETRY_MS);
  const answer = await fetch(location.href, { method: 'HEAD', headers: { accept: 'text/html' } }).catch(() => {});
  if (answer?.redirected) location.reload(); // the session has ended
}

const toAge = () => `Not updated since ${updatedAt.toISOString().slice(11, 19)}Z.`;

function showAge(text) {
  const age = document.getElementById('age');
  if (age.textContent !== text) age.textContent = text; // screen readers say what is set
}

if (document.querySelector('[data-live]')) {
  connect();
  document.addEventListener('visibilitychange', connect);
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
