/** The part of set-up that needs TypeScript: guest images, each cached by content. */
import { buildImages } from './images/images.ts';
import { announce } from './terminal.ts';

await buildImages(announce);
