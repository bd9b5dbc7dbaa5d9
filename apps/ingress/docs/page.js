/* global Scalar: what viewer.js defines */
Scalar.createApiReference('#reference', {
  url: '/openapi.json',
  // Nothing is loaded from another host, and requests that are tried go to this one, not through a proxy.
  withDefaultFonts: false,
  telemetry: false,
  agent: { disabled: true, hideAddApi: true },
  mcp: { disabled: true },
  hideClientButton: true,
  showDeveloperTools: 'never',
  // The key that is typed in goes when the page goes.
  persistAuth: false,
  authentication: { preferredSecurityScheme: 'apiKey' },
  defaultOpenAllTags: true,
  hideModels: true,
  documentDownloadType: 'json',
  orderSchemaPropertiesBy: 'preserve',
  orderRequiredPropertiesFirst: true,
  defaultHttpClient: { targetKey: 'shell', clientKey: 'curl' },
});
