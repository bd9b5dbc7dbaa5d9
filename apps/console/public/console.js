// Reads the page again every five seconds while it is visible, and replaces its live parts. Without this script, a
// reload does the same.
const INTERVAL_MS = 5_000;

async function refresh() {
  if (document.hidden) return;
  const answer = await fetch(location.href, { headers: { accept: 'text/html' } });
  if (!answer.ok || answer.redirected) return;
  const fresh = new DOMParser().parseFromString(await answer.text(), 'text/html');
  for (const part of document.querySelectorAll('[data-live]')) {
    // Replacing what the keyboard or a selection points to would take it away from its user.
    if (part.contains(document.activeElement) || !getSelection().isCollapsed) continue;
    const now = fresh.getElementById(part.id);
    if (now && now.innerHTML !== part.innerHTML) part.replaceWith(document.adoptNode(now));
  }
}

if (document.querySelector('[data-live]')) setInterval(() => refresh().catch(() => {}), INTERVAL_MS);

for (const secret of document.querySelectorAll('[data-copy]')) {
  const button = document.createElement('button');
  button.textContent = 'Copy';
  button.addEventListener('click', async () => {
    await navigator.clipboard.writeText(secret.textContent);
    button.textContent = 'Copied';
  });
  secret.after(' ', button);
}
