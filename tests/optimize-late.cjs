// Each test process loads this. On Node.js 20, V8 spends a tenth of a short process on optimizing code, so here only code
// that runs for long is optimized. Later versions have no such flag.
if (process.version.startsWith('v20.')) require('node:v8').setFlagsFromString('--interrupt-budget=2000000');
