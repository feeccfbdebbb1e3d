// The reference facilitator: @x402/core with the EVM schemes of @x402/evm, versions 1 and 2, over express.
//
//   rpc, chain   node and its chain id
//   key          account that pays gas
import express from 'express';
import { x402Facilitator } from '@x402/core/facilitator';
import { toFacilitatorEvmSigner } from '@x402/evm';
import { registerExactEvmScheme } from '@x402/evm/exact/facilitator';
import { UptoEvmScheme } from '@x402/evm/upto/facilitator';
import { EIP2612_GAS_SPONSORING } from '@x402/extensions';
import { options, sender, serve } from './common.mjs';

const signer = toFacilitatorEvmSigner(sender(options.chain, options.rpc, options.key));
const facilitator = new x402Facilitator();
registerExactEvmScheme(facilitator, { signer, networks: `eip155:${options.chain}` });
facilitator.register(`eip155:${options.chain}`, new UptoEvmScheme(signer));
facilitator.registerExtension(EIP2612_GAS_SPONSORING);

const app = express();
app.use(express.json({ limit: '1mb' }));
const answer = (verb) => async (req, res) => {
  try {
    res.json(await facilitator[verb](req.body.paymentPayload, req.body.paymentRequirements));
  } catch (e) {
    res.status(500).json({ error: e instanceof Error ? e.message : String(e) });
  }
};
app.post('/verify', answer('verify'));
app.post('/settle', answer('settle'));
app.get('/supported', (_, res) => res.json(facilitator.getSupported()));
serve(app);
