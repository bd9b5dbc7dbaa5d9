/* global Scalar: defined by viewer.js */
Scalar.createApiReference('#reference', {
  url: '/openapi.json',
  // The page loads nothing from other hosts, and test requests go to this host, not through a proxy.
  withDefaultFonts: false,
  telemetry: false,
  agent: { disabled: true, hideAddApi: true },
  mcp: { disabled: true },
  hideClientButton: true,
  showDeveloperTools: 'never',
  // The page forgets the entered key when it is closed.
  persistAuth: false,
  authentication: { preferredSecurityScheme: 'apiKey' },
  defaultOpenAllTags: true,
  hideModels: true,
  documentDownloadType: 'json',
  orderSchemaPropertiesBy: 'preserve',
  orderRequiredPropertiesFirst: true,
  defaultHttpClient: { targetKey: 'shell', clientKey: 'curl' },
});
