// A buyer of x402 version 2, as @x402/fetch documents it.
//
//   url, method, body, bodies, headers, times, parallel, hold   what to request: see common.mjs
//   key        the payer's private key
//   rpc        node that the schemes may read; without it Permit2 payments say nothing of allowances
//   schemes    ["exact"], or "upto" too
//   anyAsset   pay in tokens that the package does not know; by default it refuses them
//   payment    identifier to send with the payment-identifier extension
//   signIn     answer a sign-in-with-x challenge before paying
import { wrapFetchWithPayment, x402Client, x402HTTPClient } from '@x402/fetch';
import { registerExactEvmScheme } from '@x402/evm/exact/client';
import { UptoEvmScheme } from '@x402/evm/upto/client';
import { appendPaymentIdentifierToExtensions } from '@x402/extensions/payment-identifier';
import { createSIWxClientHook } from '@x402/extensions/sign-in-with-x';
import { privateKeyToAccount } from 'viem/accounts';
import { buy, options } from './common.mjs';

const signer = privateKeyToAccount(options.key);
const rpc = options.rpc && { rpcUrl: options.rpc };
const schemes = options.schemes ?? ['exact'];
const client = new x402Client();
if (schemes.includes('exact')) registerExactEvmScheme(client, { signer, schemeOptions: rpc });
if (schemes.includes('upto')) client.register('eip155:*', new UptoEvmScheme(signer, rpc));
if (options.anyAsset) client.setSpendControls({ allowedAssets: true });
if (options.payment) {
  client.registerExtension({
    key: 'payment-identifier',
    enrichPaymentPayload: async (payload) => ({
      ...payload, extensions: appendPaymentIdentifierToExtensions({ ...payload.extensions }, options.payment),
    }),
  });
}
const http = new x402HTTPClient(client);
if (options.signIn) http.onPaymentRequired(createSIWxClientHook(signer));

await buy((fetch, init) => wrapFetchWithPayment(fetch, options.signIn ? http : client)(options.url, init));
