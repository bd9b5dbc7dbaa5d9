const text = { type: 'string' };

/** The schema of the peers that validate the body. */
export const entrySchema = {
  type: 'object',
  required: ['customerId'],
  anyOf: [{ required: ['customerEmail'] }, { required: ['customerPhone'] }],
  properties: {
    customerId: text,
    customerEmail: text,
    customerPhone: text,
    customerFirstName: text,
    customerLastName: text,
    customerIP: text,
  },
};

/** The entry's fields under the names of the table's columns. */
export const toFields = (body) => ({
  email: body.customerEmail,
  phone: body.customerPhone,
  firstName: body.customerFirstName,
  lastName: body.customerLastName,
  ip: body.customerIP,
});
