// A seller of x402 version 2, as @x402/express documents it.
//
//   facilitator   URL of the facilitator
//   payTo         who is paid
//   network       CAIP-2 name of the network
//   asset         {address, name, version}: token for the routes that do not take the package's own default
import express from 'express';
import { paymentMiddleware, setSettlementOverrides, x402ResourceServer } from '@x402/express';
import { HTTPFacilitatorClient } from '@x402/core/server';
import { ExactEvmScheme } from '@x402/evm/exact/server';
import { UptoEvmScheme } from '@x402/evm/upto/server';
import { declareEip2612GasSponsoringExtension } from '@x402/extensions';
import { options, say, serve } from './common.mjs';

const { payTo, network, asset } = options;
const server = new x402ResourceServer(new HTTPFacilitatorClient({ url: options.facilitator }))
  .register('eip155:*', new ExactEvmScheme())
  .register('eip155:*', new UptoEvmScheme());

const way = (scheme, price) => ({ accepts: [{ scheme, network, payTo, price }], description: 'for the tests', mimeType: 'application/json' });
const permit2 = (amount) => ({
  amount, asset: asset.address, extra: { name: asset.name, version: asset.version, assetTransferMethod: 'permit2' },
});
const routes = {
  'GET /exact': way('exact', '$0.01'),
  'POST /echo': way('exact', '$0.002'),
  'GET /fails': way('exact', '$0.01'),
  'GET /upfront': { accepts: [{ scheme: 'exact', network, payTo, price: '$0.005', extra: { paymentFlow: 'upfront' } }] },
};
if (asset) {
  routes['GET /permit2'] = way('exact', permit2('3000'));
  routes['GET /sponsored'] = { ...way('exact', permit2('4000')), extensions: declareEip2612GasSponsoringExtension() };
  routes['GET /upto'] = way('upto', permit2('100000'));
  routes['GET /free-of-charge'] = way('upto', permit2('100000'));
}

const app = express();
app.use(paymentMiddleware(routes, server));
let served = 0;
const hand = (res, body) => {
  say({ served: ++served, path: res.req.path });
  res.json(body);
};
app.get(['/exact', '/permit2', '/sponsored', '/upfront'], (_, res) => hand(res, { goods: 'weather' }));
app.post('/echo', express.text({ type: '*/*' }), (req, res) => hand(res, { heard: req.body }));
app.get('/fails', (_, res) => res.status(500).json({ error: 'the handler failed' }));
app.get('/upto', (_, res) => { setSettlementOverrides(res, { amount: '1234' }); hand(res, { goods: 'measured' }); });
app.get('/free-of-charge', (_, res) => { setSettlementOverrides(res, { amount: '0' }); hand(res, { goods: 'nothing' }); });
serve(app);
