// A buyer of x402 version 1, as x402-fetch documents it.
//
//   url, method, body, bodies, headers, times, parallel, hold   what to request: see common.mjs
//   key       the payer's private key
//   network   the payer's network, by its name in version 1
//   max       the most that a payment may be, in the token's smallest unit; the package's own limit is 0.10 USDC
import { createSigner, wrapFetchWithPayment } from 'x402-fetch';
import { buy, options } from './common.mjs';

const signer = await createSigner(options.network, options.key);
const max = options.max && BigInt(options.max);
await buy((fetch, init) => wrapFetchWithPayment(fetch, signer, max || undefined)(options.url, init));
