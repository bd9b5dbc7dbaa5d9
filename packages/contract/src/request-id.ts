/** A request id that is taken over from its caller. */
export const REQUEST_ID = /^[\w.:~+/=-]{1,128}$/;
