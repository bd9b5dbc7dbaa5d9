import { afterAll, beforeAll, describe, expect, test } from '@jest/globals';
import { BACKENDS, type Backend } from '@opm/testkit';
import fc from 'fast-check';
import { search } from '../../../tests/search.js';
import { type Harness, type Incident, openHarness } from './repeats-harness.js';
import { type Action, type Request, raceUnderOneKey, repeatBesideNew, runHistory } from './repeats-history.js';

const RUNS = { min: 20, max: 500, ms: 4_000 };
const RACES = 20;
/** For a longer search by hand: the number of runs, and a seed. */
const { REPEATS_RUNS, REPEATS_SEED } = process.env;
const SEARCH = { numRuns: Number(REPEATS_RUNS), ...(REPEATS_SEED && { seed: Number(REPEATS_SEED) }) };

const fails = (at: Incident['at'], when: Incident['when'] = 'before') => ({ at, when, fate: 'fails' as const });
const dies = (at: Incident['at'], when: Incident['when'] = 'after') => ({ at, when, fate: 'dies' as const });
const timesOut = (at: Incident['at']) => fails(at, 'after');

/** Mostly the first, so that several actions are about the same customer or key. */
const few = fc.constantFrom(0, 0, 0, 0, 0, 1, 1, 2);
const ingress = fc.nat(1);
const drain = fc.record({ do: fc.constant('drain' as const), which: fc.constantFrom('all', 'all', 'first', 'last') });
const sweep = fc.record({ do: fc.constant('sweep' as const) });
const single = { do: fc.constantFrom('post', 'post', 'erase'), customer: few, ingress };
const keyed = { do: fc.constant('keyed' as const), key: few, ingress };
const meanwhile = fc.array(
  fc.oneof(
    { weight: 3, arbitrary: fc.record(single) },
    { weight: 4, arbitrary: fc.record(keyed) },
    { weight: 4, arbitrary: drain },
    { weight: 1, arbitrary: sweep },
  ),
  { maxLength: 3 },
);
const STEPS = ['remember', 'read', 'admit', 'admitAgain', 'lookUp', 'enqueue', 'enqueue', 'close', 'release'] as const;
const trouble = fc.oneof(
  fc.constantFrom(
    ...[dies('admit'), dies('admitAgain'), dies('enqueue'), dies('close', 'before')],
    ...[fails('enqueue'), timesOut('enqueue'), fails('close')],
  ),
  fc.record({
    at: fc.constantFrom(...STEPS),
    when: fc.constantFrom('before', 'after'),
    meanwhile,
    fate: fc.constantFrom('fails', 'dies', undefined),
  }),
);
const troubles = fc.oneof(fc.constant([]), fc.array(trouble, { minLength: 1, maxLength: 2 }));
const how = fc.constantFrom(undefined, undefined, undefined, 'twice', 'both');
const tokens = fc.constantFrom(undefined, undefined, undefined, undefined, 0, 1, 2);
const action = fc.oneof(
  { weight: 2, arbitrary: fc.record(single) },
  { weight: 1, arbitrary: fc.record({ ...single, troubles }) },
  { weight: 6, arbitrary: fc.record({ ...keyed, how, tokens, troubles }) },
  { weight: 3, arbitrary: drain },
  { weight: 2, arbitrary: sweep },
) as fc.Arbitrary<Action>;
const request = fc.oneof(
  {
    weight: 2,
    arbitrary: fc.record({ what: fc.constantFrom('post', 'post', 'post', 'erase'), customers: fc.tuple(few) }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ what: fc.constant('batch'), customers: fc.array(few, { minLength: 2, maxLength: 5 }) }),
  },
) as fc.Arbitrary<Request>;

const POST: Request = { what: 'post', customers: [0] };
const ERASE: Request = { what: 'erase', customers: [0] };
type Sent = Extract<Action, { troubles?: unknown }>;
type Troubles = NonNullable<Sent['troubles']>;
const send = (...troubles: Troubles): Action => ({ do: 'keyed', key: 0, ingress: 0, troubles });
const elsewhere: Action = { do: 'keyed', key: 0, ingress: 1 };
const post: Action = { do: 'post', customer: 0, ingress: 1 };
const erase: Action = { do: 'erase', customer: 0, ingress: 1 };
const drainAll: Action = { do: 'drain', which: 'all' };
const drainLast: Action = { do: 'drain', which: 'last' };
const sweepAll: Action = { do: 'sweep' };
const during = (at: Incident['at'], ...meanwhile: Action[]) => ({ at, when: 'before' as const, meanwhile });

const EXAMPLES: [name: string, request: Request, actions: Action[], answers: string[]][] = [
  [
    'killed between admission and enqueue, its claim swept, and another post has the 201',
    POST,
    [send(dies('admit')), sweepAll, post, drainAll, elsewhere],
    ['-', '201', '202'],
  ],
  [
    'the same, and the repeat is killed before its record is closed',
    POST,
    [send(dies('admit')), sweepAll, post, drainAll, send(dies('close', 'before')), elsewhere],
    ['-', '201', '-', '202'],
  ],
  [
    'the same, and the repeat is killed before its enqueue',
    POST,
    [send(dies('admit')), sweepAll, post, drainAll, send(dies('enqueue', 'before')), elsewhere],
    ['-', '201', '-', '202'],
  ],
  [
    'admitted after an erasure, and the same',
    POST,
    [post, erase, send(dies('admit')), drainAll, sweepAll, post, drainAll, send(dies('close', 'before')), elsewhere],
    ['201', '202', '-', '201', '-', '202'],
  ],
  [
    'released after an enqueue that timed out but took effect',
    POST,
    [send(timesOut('enqueue')), elsewhere],
    ['503', '201'],
  ],
  ['the same, and another post has the 201', POST, [send(timesOut('enqueue')), post, elsewhere], ['503', '201', '202']],
  [
    'the same, and both are stored',
    POST,
    [send(timesOut('enqueue')), post, drainAll, elsewhere],
    ['503', '201', '202'],
  ],
  [
    'a repeat fails, and its release leaves a claim for the job of the first attempt',
    POST,
    [send(fails('close')), send(fails('enqueue')), post, elsewhere],
    ['201', '503', '202', '202'],
  ],
  [
    'the first attempt is released late, after an acknowledged repeat',
    POST,
    [send(timesOut('enqueue'), during('release', elsewhere, post)), post],
    ['201', '202', '503', '202'],
  ],
  [
    'the first attempt is released late, after an acknowledged repeat that is stored',
    POST,
    [send(timesOut('enqueue'), during('release', elsewhere, drainAll, erase, post)), drainAll, post],
    ['201', '202', '201', '503', '202'],
  ],
  [
    'a newer erasure is pending',
    POST,
    [post, drainAll, send(dies('enqueue')), erase, elsewhere, post],
    ['201', '-', '202', '202', '201'],
  ],
  [
    'the customer was erased before',
    POST,
    [post, drainAll, erase, drainAll, send(dies('admit')), elsewhere],
    ['201', '202', '-', '201'],
  ],
  [
    'the customer was erased since',
    POST,
    [send(dies('enqueue')), drainAll, erase, drainAll, elsewhere, drainAll, post],
    ['-', '202', '202', '201'],
  ],
  ['the erasure of nobody', ERASE, [send(fails('close')), elsewhere, post], ['404', '404', '201']],
  [
    'the erasure of nobody, killed between admission and enqueue, its claim swept',
    ERASE,
    [send(dies('admit')), sweepAll, elsewhere, post],
    ['-', '404', '201'],
  ],
  ['the erasure of nobody, stored', ERASE, [send(fails('close')), drainAll, elsewhere, post], ['404', '202', '201']],
  [
    'an erasure, and a newer post of the erased customer',
    ERASE,
    [post, send(dies('enqueue')), post, drainAll, elsewhere],
    ['201', '-', '201', '202'],
  ],
  [
    'an erasure that is still pending when a newer post is stored',
    ERASE,
    [send(dies('admit')), post, elsewhere, { do: 'drain', which: 'first' }, post],
    ['-', '201', '202', '202'],
  ],
  ['twice at once through one ingress', POST, [{ do: 'keyed', key: 0, ingress: 0, how: 'twice' }], ['201', '201*']],
  ['while another ingress has not admitted it yet', POST, [send(during('admit', elsewhere))], ['201', '201*']],
  ['while another ingress has admitted it', POST, [send(during('lookUp', elsewhere))], ['201', '201']],
  [
    'while another ingress has admitted it, whose look-up then fails',
    POST,
    [send(fails('lookUp'), during('close', elsewhere)), elsewhere],
    ['201', '201*', '201*'],
  ],
  [
    'while another ingress, whose look-up fails, answers first',
    POST,
    [send(during('close', { ...elsewhere, troubles: [fails('lookUp')] })), elsewhere],
    ['202', '201', '201*'],
  ],
  [
    'while another ingress repeats it',
    POST,
    [send(dies('admit')), send(during('admitAgain', elsewhere))],
    ['-', '201', '201*'],
  ],
  [
    'its claim does not stand, and is settled',
    POST,
    [send(dies('admit')), erase, elsewhere, drainLast, post],
    ['-', '202', '202', '201'],
  ],
  ['a newer post is stored', POST, [send(dies('enqueue')), post, drainAll, elsewhere], ['-', '202', '202']],
  [
    'released, and an older erasure is in flight',
    POST,
    [post, drainAll, erase, send(fails('enqueue')), elsewhere, post, drainAll, post],
    ['201', '202', '503', '201', '202', '202'],
  ],
  [
    'released, and an older post is in flight',
    POST,
    [post, send(fails('enqueue')), elsewhere, { do: 'drain', which: 'first' }, post],
    ['201', '503', '202', '202'],
  ],
  [
    'an erasure that is released, and an older post is in flight',
    ERASE,
    [post, send(fails('enqueue')), elsewhere, drainAll, post],
    ['201', '503', '202', '201'],
  ],
  [
    'an erasure that is released, and an older erasure is in flight',
    ERASE,
    [post, drainAll, erase, send(fails('enqueue')), elsewhere, post],
    ['201', '202', '503', '404', '201'],
  ],
];

/** Any history, or an example with some more actions between its own. */
type History = { requests: Request[]; actions: Action[] };
const history: fc.Arbitrary<History> = fc.oneof(
  fc.record({
    requests: fc.array(request, { minLength: 1, maxLength: 3 }),
    actions: fc.array(action, { minLength: 3, maxLength: 12 }),
  }),
  fc
    .record({
      example: fc.constantFrom(...EXAMPLES),
      requests: fc.array(request, { maxLength: 2 }),
      more: fc.array(fc.record({ at: fc.nat(7), action }), { minLength: 1, maxLength: 4 }),
    })
    .map(({ example: [, first, own], requests, more }) => {
      const actions = [...own];
      for (const { at, action } of more) actions.splice(at, 0, action);
      return { requests: [first, ...requests], actions };
    }),
);

describe.each(BACKENDS)('repeats of keyed requests, with the queue on %s:', (_, createBackend) => {
  describe.each([1, 3])('with %i shards:', (shards) => {
    let backend: Backend;
    let harness: Harness;

    beforeAll(async () => {
      backend = await createBackend();
      harness = await openHarness(backend, shards);
    });
    afterAll(async () => {
      await harness.close();
      await backend.drop();
    });

    test.each(EXAMPLES)('%s', async (_name, request, actions, answers) => {
      expect(await runHistory(harness, [request], actions)).toEqual(answers);
    });

    test('of two different requests that use one key at once, one is accepted', async () => {
      for (let n = 0; n < RACES; n++) expect(await raceUnderOneKey(harness)).toEqual(['201', '422']);
    });

    test('a repeat and a new entry in one chunk are admitted by one call', async () => {
      expect(await repeatBesideNew(harness)).toEqual({ answers: ['201*', '201'], admissions: 1 });
    });

    test('no value goes back, and each life of a customer has one 201', async () => {
      const property = fc.asyncProperty(history, async ({ requests, actions }) => {
        await runHistory(harness, requests, actions);
      });
      await (REPEATS_RUNS ? fc.assert(property, SEARCH) : search(property, RUNS));
    });
  });
});
