// A seller of x402 version 1, as x402-express documents it.
//
//   facilitator   URL of the facilitator
//   payTo         who is paid
//   network       the network's name in version 1
import express from 'express';
import { paymentMiddleware } from 'x402-express';
import { options, say, serve } from './common.mjs';

const { payTo, network } = options;
const app = express();
app.use(paymentMiddleware(payTo, {
  'GET /exact': { price: '$0.01', network, config: { description: 'for the tests', mimeType: 'application/json' } },
  'GET /fails': { price: '$0.01', network },
}, { url: options.facilitator }));
let served = 0;
app.get('/exact', (req, res) => {
  say({ served: ++served, path: req.path });
  res.json({ goods: 'weather' });
});
app.get('/fails', (_, res) => res.status(500).json({ error: 'the handler failed' }));
serve(app);
