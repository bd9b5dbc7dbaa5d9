import { Command } from 'commander';
import { type PrintOptions, print, toTable } from '../print.js';
import { UserError } from '../user-error.js';
import { findProject, withStore } from '../with-store.js';

export function customersCommand(env: NodeJS.ProcessEnv): Command {
  const customers = new Command('customers').description('Customers as they are stored.');

  customers
    .command('get')
    .argument('<project>')
    .argument('<customer-id>')
    .option('--json', 'print JSON')
    .description('Show the row of one customer.')
    .action(async (projectName: string, customerId: string, options: PrintOptions) => {
      const customer = await withStore(env, async (store) =>
        store.customers.find((await findProject(store, projectName)).projectId, customerId),
      );
      if (!customer) {
        throw new UserError(
          `project "${projectName}" has no customer "${customerId}" (an entry that is still queued is not stored yet)`,
        );
      }
      print(options, customer, toTable(Object.entries(customer).map(([column, value]) => ({ column, value }))));
    });

  return customers;
}
