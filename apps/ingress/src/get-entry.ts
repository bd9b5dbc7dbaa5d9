import { Fault, parseCustomerId, toCustomerAnswer } from '@opm/contract';
import type { RequestHandler } from 'express';
import { contextOf } from './express-classes.js';
import type { FindCustomer } from './find-customer.js';
import type { Overload } from './overload.js';
import type { Reply } from './reply.js';

/**
 * GET /entry/{customerId}: the customer as stored, and whether something newer is on its way there. What has been
 * acknowledged counts at once: a customer whose first entry is pending is there, one whose erasure is pending is not. If a
 * newer entry follows the erasure, the customer is told as the row is, and is pending until both are persisted.
 */
export function getEntry(deps: {
  overload: Pick<Overload, 'checkRead'>;
  findCustomer: FindCustomer;
  reply: Reply;
}): RequestHandler {
  const { overload, findCustomer, reply } = deps;
  return async (request, response) => {
    overload.checkRead();
    const customerId = parseCustomerId(request.params.customerId);
    const { stored, claim } = await findCustomer(contextOf(response).projectId, customerId);
    if (claim?.erased) throw new Fault('CUSTOMER_ERASED');
    if (!stored && !claim) throw new Fault('CUSTOMER_UNKNOWN');
    reply.json(response, 200, JSON.stringify(toCustomerAnswer(customerId, stored, claim !== undefined)));
  };
}
