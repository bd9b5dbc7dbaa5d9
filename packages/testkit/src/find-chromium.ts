import { findProgram } from './find-program.js';

/** The path of a Chromium or Chrome; root on Debian gets it installed. Else throws the line to run. */
export async function findChromium(): Promise<string> {
  return (
    process.env.CHROMIUM_PATH ||
    findProgram({
      title: 'Chromium',
      names: ['chromium', 'chromium-browser', 'google-chrome', 'google-chrome-stable'],
      aptPackages: ['chromium'],
      otherwise: 'brew install --cask chromium (or your package manager)',
      alternative: 'set CHROMIUM_PATH to a Chromium or Chrome',
    })
  );
}
