import java.nio.file.Files;
import java.time.OffsetDateTime;
import java.time.temporal.ChronoUnit;
import java.util.Map;
import org.openapitools.client.ApiClient;
import org.openapitools.client.ApiException;
import org.openapitools.client.api.ClientsApi;
import org.openapitools.client.api.ImportsApi;
import org.openapitools.client.api.MailingsApi;
import org.openapitools.client.api.StatisticsApi;
import org.openapitools.client.model.Filter;
import org.openapitools.client.model.MailingAnswer;
import org.openapitools.client.model.NewClient;
import org.openapitools.client.model.NewMailing;
import org.openapitools.client.model.ProblemAnswer;
import org.openapitools.client.model.WindowHours;

/** The journey of a generated Java client: `java Journey ADDRESS TOKEN PHONE`. */
public class Journey {
    static void check(boolean holds, String what) {
        if (!holds) {
            throw new AssertionError(what);
        }
    }

    public static void main(String[] arguments) throws Exception {
        var phone = arguments[2];
        var api = new ApiClient().setBasePath(arguments[0]);
        api.setBearerToken(arguments[1]);
        var clients = new ClientsApi(api);
        var mailings = new MailingsApi(api);

        var newClient = new NewClient().phone(phone).timezone("Europe/Moscow").tag("java");
        newClient.attributes(Map.of("name", "Anna"));
        var client = clients.createClient(newClient, null);
        check("Anna".equals(client.getAttributes().get("name")), "attributes");
        check(phone.substring(1, 4).equals(client.getOperatorCode()), "operator code");

        try {
            clients.createClient(newClient, null);
            throw new AssertionError("the phone is taken");
        } catch (ApiException refused) {
            check(refused.getCode() == 409, "status");
            var problem = ProblemAnswer.fromJson(refused.getResponseBody());
            check(problem.getRequestId() != null, "problem");
        }

        var start = OffsetDateTime.now().plusDays(1).truncatedTo(ChronoUnit.SECONDS);
        var newMailing = new NewMailing().text("Hello, {name|dear client}!");
        newMailing.startAt(start).endAt(start.plusHours(1)).filter(new Filter().addTagsItem("java"));
        newMailing.window(new WindowHours().from("09:00").to("21:00"));
        MailingAnswer mailing = mailings.createMailing(newMailing, phone);
        check(mailing.getStatus() == MailingAnswer.StatusEnum.SCHEDULED, "status");
        check(mailing.getStartAt().isEqual(start), "start");
        check(mailing.getStartedAt() == null, "not started");

        var statistics = new StatisticsApi(api).getMailingStatistics(mailing.getId());
        check(statistics.getCounts().getPending() == 0, "statistics");
        var page = clients.listClients(null, null, null, null, null, null, "java", null, null, null);
        check(page.getItems().size() == 1 && page.getItems().get(0).getId().equals(client.getId()), "page");

        var file = Files.writeString(Files.createTempFile("clients", ".csv"), "phone,tag\n" + phone + ",java\n");
        var started = new ImportsApi(api).importClients(file.toFile(), null, null, null, null);
        check(started.getRowsTotal() == 1, "import");

        mailings.deleteMailing(mailing.getId(), null);
        clients.deleteClient(client.getId(), null);
        System.out.println("done");
    }
}
