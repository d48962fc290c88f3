// The journey of a generated TypeScript client: `node journey.js ADDRESS TOKEN PHONE`.
import {
  ClientsApi,
  Configuration,
  ImportsApi,
  MailingsApi,
  ResponseError,
  StatisticsApi,
} from "./generated";

function check(holds: boolean, what: string): void {
  if (!holds) throw new Error(what);
}

async function main(basePath: string, accessToken: string, phone: string): Promise<void> {
  const configuration = new Configuration({ basePath, accessToken });
  const clients = new ClientsApi(configuration);
  const mailings = new MailingsApi(configuration);

  const newClient = { phone, timezone: "Europe/Moscow", tag: "ts", attributes: { name: "Anna" } };
  const client = await clients.createClient({ newClient });
  check(client.attributes.name === "Anna", "attributes");
  check(client.operatorCode === phone.slice(1, 4), "operator code");

  const refused = await clients.createClient({ newClient }).then(() => null, (error) => error);
  check(refused instanceof ResponseError && refused.response.status === 409, "the phone is taken");
  check((await refused.response.json()).request_id !== undefined, "problem");

  const startAt = new Date(Math.floor(Date.now() / 1000) * 1000 + 86_400_000);
  const newMailing = {
    text: "Hello, {name|dear client}!",
    startAt,
    endAt: new Date(startAt.getTime() + 3_600_000),
    filter: { tags: ["ts"] },
    window: { from: "09:00", to: "21:00" },
  };
  const mailing = await mailings.createMailing({ newMailing, idempotencyKey: phone });
  check(mailing.status === "scheduled" && mailing.startedAt === null, "status");
  check(mailing.startAt.getTime() === startAt.getTime(), "start");

  const statistics = await new StatisticsApi(configuration).getMailingStatistics({
    mailingId: mailing.id,
  });
  check(statistics.counts.pending === 0, "statistics");
  const page = await clients.listClients({ tag: "ts" });
  check(page.items.length === 1 && page.items[0]!.id === client.id, "page");

  const file = new Blob([`phone,tag\n${phone},ts\n`], { type: "text/csv" });
  const started = await new ImportsApi(configuration).importClients({ file });
  check(started.rowsTotal === 1 && started.ignoredColumns.length === 0, "import");

  await mailings.deleteMailing({ mailingId: mailing.id });
  await clients.deleteClient({ clientId: client.id });
  console.log("done");
}

declare const process: { argv: string[]; exit(code: number): never };
const [basePath, accessToken, phone] = process.argv.slice(2);
main(basePath!, accessToken!, phone!).catch((error) => {
  console.error(error);
  process.exit(1);
});
