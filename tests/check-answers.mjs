import { toOpenApiDocument } from '@opm/contract';
import { checkFetch, createContractCheck } from '@opm/testkit';

// Whatever a test asks an ingress, the answer must be one of the OpenAPI document's. That the ingress serves this very
// document has a test of its own.
checkFetch(createContractCheck(toOpenApiDocument({ version: '0.0.0' })));
