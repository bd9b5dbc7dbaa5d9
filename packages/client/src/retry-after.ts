/** The header Retry-After, in seconds or as an HTTP date. @returns seconds from now, undefined where it says nothing */
export function parseRetryAfter(header: string | undefined, now = Date.now()): number | undefined {
  if (header === undefined) return undefined;
  const text = header.trim();
  if (/^\d{1,9}$/.test(text)) return Number(text);
  // Every form of an HTTP date begins with the day's name; Date.parse alone would read "-1" as a year.
  const date = /^[a-z]{3}/i.test(text) ? Date.parse(text) : Number.NaN;
  return Number.isNaN(date) ? undefined : Math.max(0, (date - now) / 1_000);
}
