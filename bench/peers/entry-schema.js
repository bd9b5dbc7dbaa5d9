const text = { type: 'string' };

/** What the peers that check the body check it against. */
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

/** The entry's fields under the names of the table. */
export const toFields = (body) => ({
  email: body.customerEmail,
  phone: body.customerPhone,
  firstName: body.customerFirstName,
  lastName: body.customerLastName,
  ip: body.customerIP,
});
