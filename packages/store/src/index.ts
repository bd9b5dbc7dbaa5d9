export type { ApiKeys, KeyOwner, StoredApiKey } from './api-keys.js';
export { type AppRole, grantToAppRole } from './app-role.js';
export type { Asked, Customers, StoredCustomer } from './customers.js';
export type {
  DeadLetter,
  DeadLetterCount,
  DeadLetterFilter,
  DeadLetters,
  StoredDeadLetter,
  WholeDeadLetter,
} from './dead-letters.js';
export type { FailureKind } from './failure-kind.js';
export { hasMigrations } from './migrations.js';
export type { ListedProject, Project, Projects } from './projects.js';
export { createStore, type Store, type StoreOptions } from './store.js';
export { failureKindOf, StoreError } from './store-error.js';
export type { CustomerRow } from './upsert-customers.js';
