import { readFileSync } from 'node:fs';
import { expect, test } from '@jest/globals';
import { STORE_ENV } from '@opm/runtime';
import { parse } from 'yaml';
import { CONSOLE_ENV } from '../apps/console/src/config.js';
import { INGRESS_ENV } from '../apps/ingress/src/config.js';
import { WORKER_ENV } from '../apps/worker/src/config.js';

const SPECS = { ingress: INGRESS_ENV, worker: WORKER_ENV, console: CONSOLE_ENV, opm: STORE_ENV, migrate: STORE_ENV };

/** Where a container listens is for docker-compose.yml and the image to say. */
const PLACES = ['HOST', 'PORT', 'CONSOLE_HOST', 'CONSOLE_PORT', 'INTERNAL_HOST', 'INTERNAL_PORT'];
/** What is made of other variables, or has to be there. All others are names alone: what .env says, or not given. */
const MADE: Record<string, unknown> = {
  DATABASE_URL: expect.stringMatching(/opm_app:\$\{POSTGRES_APP_PASSWORD:/),
  REDIS_URL: expect.stringContaining('REDIS_PASSWORD'),
  CONSOLE_PASSWORD: expect.stringMatching(/^\$\{CONSOLE_PASSWORD:\?.*\}$/),
};

/** The owner's, who makes the role of the others. */
const MADE_FOR_MIGRATE = {
  DATABASE_URL: expect.stringMatching(/opm:\$\{POSTGRES_PASSWORD:/),
  APP_ROLE_PASSWORD: expect.stringContaining('POSTGRES_APP_PASSWORD'),
};

test.each(Object.entries(SPECS))('Docker Compose passes each variable of .env that %s reads on to it', (name, spec) => {
  const { services } = parse(readFileSync('docker-compose.yml', 'utf8'), { merge: true });
  const passedOn = Object.keys(spec).filter((variable) => !PLACES.includes(variable));
  expect(services[name].environment).toEqual({
    ...Object.fromEntries(passedOn.map((variable) => [variable, MADE[variable] ?? null])),
    ...(name === 'migrate' && MADE_FOR_MIGRATE),
  });
});
