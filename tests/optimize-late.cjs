// Each test process loads this. V8 spends a tenth of a short process on optimizing code, so here only code that runs for
// long is optimized.
require('node:v8').setFlagsFromString('--interrupt-budget=2000000');
