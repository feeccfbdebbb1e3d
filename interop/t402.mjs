// T402 as @t402/core 2.0.0 and @t402/evm 2.2.0 speak it; the packages ship no fetch wrapper and no middleware, so these
// are the few lines around them that their documentation shows.
//
//   role: "buyer"         url, key, times, parallel, hold …: see common.mjs; exact and exact-legacy
//   role: "seller"        facilitator, payTo, network, legacy ({address, name, version}: token for GET /legacy)
//   role: "facilitator"   rpc, chain, key
import express from 'express';
import { t402Client, t402HTTPClient } from '@t402/core/client';
import { t402Facilitator } from '@t402/core/facilitator';
import { HTTPFacilitatorClient, t402HTTPResourceServer, t402ResourceServer } from '@t402/core/server';
import { ExactLegacyEvmClientScheme, ExactLegacyEvmFacilitatorScheme, ExactLegacyEvmServerScheme, toFacilitatorEvmSigner } from '@t402/evm';
import { registerExactEvmScheme } from '@t402/evm/exact/client';
import { registerExactEvmScheme as registerFacilitator } from '@t402/evm/exact/facilitator';
import { ExactEvmScheme } from '@t402/evm/exact/server';
import { privateKeyToAccount } from 'viem/accounts';
import { buy, options, say, sender, serve } from './common.mjs';

const roles = {
  async buyer() {
    const client = new t402Client();
    const signer = privateKeyToAccount(options.key);
    registerExactEvmScheme(client, { signer });
    client.register('eip155:*', new ExactLegacyEvmClientScheme(signer));
    const http = new t402HTTPClient(client);
    await buy(async (fetch, init) => {
      const first = await fetch(options.url, init);
      if (first.status !== 402) return first;
      const text = await first.text();
      const terms = http.getPaymentRequiredResponse((name) => first.headers.get(name), text.startsWith('{') ? JSON.parse(text) : undefined);
      const headers = http.encodePaymentSignatureHeader(await client.createPaymentPayload(terms));
      const second = await fetch(options.url, { ...init, headers: { ...init.headers, ...headers } });
      if (second.ok && !options.hold) http.getPaymentSettleResponse((name) => second.headers.get(name)); // throws if there is none
      return second;
    });
  },

  async seller() {
    const { payTo, network, legacy } = options;
    const server = new t402ResourceServer(new HTTPFacilitatorClient({ url: options.facilitator }))
      .register('eip155:*', new ExactEvmScheme())
      .register('eip155:*', new ExactLegacyEvmServerScheme());
    const routes = { 'GET /exact': { accepts: { scheme: 'exact', network, payTo, price: '$0.01' }, description: 'for the tests', mimeType: 'application/json' } };
    if (legacy) {
      const price = { amount: '5000', asset: legacy.address, extra: { name: legacy.name, version: legacy.version } };
      routes['GET /legacy'] = { accepts: { scheme: 'exact-legacy', network, payTo, price }, description: 'for the tests', mimeType: 'application/json' };
    }
    const http = new t402HTTPResourceServer(server, routes);
    await http.initialize();
    let served = 0;
    serve(express().use(async (req, res) => {
      const adapter = {
        getHeader: (name) => req.header(name), getMethod: () => req.method, getPath: () => req.path,
        getUrl: () => `http://${req.headers.host}${req.originalUrl}`, getAcceptHeader: () => req.header('accept') ?? '',
        getUserAgent: () => req.header('user-agent') ?? '',
      };
      const result = await http.processHTTPRequest({ adapter, path: req.path, method: req.method });
      if (result.type === 'no-payment-required') return res.status(404).json({});
      if (result.type === 'payment-error') return res.status(result.response.status).set(result.response.headers).send(result.response.body);
      const settled = await http.processSettlement(result.paymentPayload, result.paymentRequirements);
      if (!settled.success) return res.status(402).json({ error: settled.errorReason });
      say({ served: ++served, path: req.path });
      res.set(settled.headers).json({ goods: 'weather' });
    }));
  },

  async facilitator() {
    const signer = toFacilitatorEvmSigner(sender(options.chain, options.rpc, options.key));
    const facilitator = new t402Facilitator();
    registerFacilitator(facilitator, { signer, networks: `eip155:${options.chain}` });
    facilitator.register(`eip155:${options.chain}`, new ExactLegacyEvmFacilitatorScheme(signer));
    const app = express().use(express.json({ limit: '1mb' }));
    for (const verb of ['verify', 'settle']) {
      app.post(`/${verb}`, async (req, res) => {
        try {
          res.json(await facilitator[verb](req.body.paymentPayload, req.body.paymentRequirements));
        } catch (e) {
          res.status(500).json({ error: e instanceof Error ? e.message : String(e) });
        }
      });
    }
    app.get('/supported', (_, res) => res.json(facilitator.getSupported()));
    serve(app);
  },
};
await roles[options.role]();
