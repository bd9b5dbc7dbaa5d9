import { toOpenApiDocument } from '@opm/contract';
import { checkFetch, createContractCheck } from '@opm/testkit';

// Checks every answer of an ingress in tests against the OpenAPI document. Another test checks that the ingress serves
// this document.
checkFetch(createContractCheck(toOpenApiDocument({ version: '0.0.0' })));
