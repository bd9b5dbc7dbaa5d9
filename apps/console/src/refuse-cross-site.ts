import type { NextFunction, Request, Response } from 'express';

/**
 * Browsers send the password along with any site's request, so one that changes something must come from our own page.
 * A request that names no site at all isn't a browser's and needs the password like any other.
 */
export function refuseCrossSite(request: Request, response: Response, next: NextFunction): void {
  if (request.method === 'GET' || request.method === 'HEAD' || isSameOrigin(request)) next();
  else response.status(403).type('text').send('cross-site request refused\n');
}

function isSameOrigin(request: Request): boolean {
  const site = request.get('sec-fetch-site');
  if (site !== undefined) return site === 'same-origin';
  const origin = request.get('origin');
  return origin === undefined || (URL.canParse(origin) && new URL(origin).host === request.get('host'));
}
