export {
  type Activity,
  type CountedDay,
  type Counts,
  type MinuteActivity,
  OTHER_PROJECTS,
  type ProcessState,
  type ProjectActivity,
  type SeenProcess,
  type SilentProject,
} from './activity.js';
export { type ActivityReporter, BUSIEST_PROJECTS, createActivityReporter, type Outcomes } from './activity-reporter.js';
export type { ApiKeys, KeyOwner, NewKey, StoredApiKey } from './api-keys.js';
export {
  type Audit,
  type AuditFilter,
  type AuditOutcome,
  type AuditRecord,
  type StoredAuditRecord,
  toCustomerTarget,
} from './audit.js';
export type { CustomerHistory, Customers, ExistenceQuery, StoredCustomer, VersionedCustomer } from './customers.js';
export type {
  DeadLetter,
  DeadLetterCount,
  DeadLetterFilter,
  DeadLetters,
  StoredDeadLetter,
  WholeDeadLetter,
} from './dead-letters.js';
export { hasMigrations } from './migrations.js';
export {
  assertOperatorName,
  assertPassword,
  BUILT_IN_OPERATOR,
  generatePassword,
  type Operator,
  type Operators,
  ROLES,
  type Role,
  SESSION_HOURS,
  type StoredOperator,
} from './operators.js';
export { assertProjectName, type ListedProject, type Project, type Projects } from './projects.js';
export type { LetterPlace, RefusedLetter } from './refused-letters.js';
export { createStore, type Store, type StoreOptions } from './store.js';
export { type FailureKind, failureKindOf, StoreError } from './store-error.js';
export { type CustomerRow, toColumn } from './upsert-customers.js';
