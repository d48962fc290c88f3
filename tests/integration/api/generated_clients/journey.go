// The journey of a generated Go client: `go run . ADDRESS TOKEN PHONE`.
package main

import (
	"context"
	"errors"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"time"

	notifications "generated"
)

func check(holds bool, what string) {
	if !holds {
		log.Fatal(what)
	}
}

func main() {
	address, token, phone := os.Args[1], os.Args[2], os.Args[3]
	configuration := notifications.NewConfiguration()
	configuration.Servers = notifications.ServerConfigurations{{URL: address}}
	api := notifications.NewAPIClient(configuration)
	ctx := context.WithValue(context.Background(), notifications.ContextAccessToken, token)

	newClient := notifications.NewNewClient(phone, "Europe/Moscow")
	newClient.SetTag("go")
	newClient.SetAttributes(map[string]string{"name": "Anna"})
	client, _, err := api.ClientsAPI.CreateClient(ctx).NewClient(*newClient).Execute()
	check(err == nil, fmt.Sprint(err))
	check(client.Attributes["name"] == "Anna" && client.OperatorCode == phone[1:4], "client")

	_, response, err := api.ClientsAPI.CreateClient(ctx).NewClient(*newClient).Execute()
	var refused *notifications.GenericOpenAPIError
	check(errors.As(err, &refused) && response.StatusCode == 409, "the phone is taken")
	problem := refused.Model().(notifications.ProblemAnswer)
	check(problem.Status == 409 && problem.RequestId.IsSet(), "problem")

	start := time.Now().Add(24 * time.Hour).Truncate(time.Second)
	newMailing := notifications.NewNewMailing("Hello, {name|dear client}!", start, start.Add(time.Hour))
	filter := notifications.NewFilter()
	filter.SetTags([]string{"go"})
	newMailing.SetFilter(*filter)
	newMailing.SetWindow(*notifications.NewWindowHours("09:00", "21:00"))
	mailing, _, err := api.MailingsAPI.CreateMailing(ctx).NewMailing(*newMailing).IdempotencyKey(phone).Execute()
	check(err == nil, fmt.Sprint(err))
	check(mailing.Status == "scheduled" && mailing.StartAt.Equal(start), "mailing")
	check(mailing.Window.Get().From == "09:00" && !mailing.StartedAt.IsSet() || mailing.StartedAt.Get() == nil, "window")

	statistics, _, err := api.StatisticsAPI.GetMailingStatistics(ctx, mailing.Id).Execute()
	check(err == nil && statistics.Counts.Pending == 0, fmt.Sprint(err))
	page, _, err := api.ClientsAPI.ListClients(ctx).Tag("go").Execute()
	check(err == nil && len(page.Items) == 1 && page.Items[0].Id == client.Id, fmt.Sprint(err))

	path := filepath.Join(os.TempDir(), phone+".csv")
	check(os.WriteFile(path, []byte("phone,tag\n"+phone+",go\n"), 0o600) == nil, "file")
	defer os.Remove(path)
	file, err := os.Open(path)
	check(err == nil, fmt.Sprint(err))
	started, _, err := api.ImportsAPI.ImportClients(ctx).File(file).Execute()
	check(err == nil && started.RowsTotal == 1, fmt.Sprint(err))

	_, err = api.MailingsAPI.DeleteMailing(ctx, mailing.Id).Execute()
	check(err == nil, fmt.Sprint(err))
	_, err = api.ClientsAPI.DeleteClient(ctx, client.Id).Execute()
	check(err == nil, fmt.Sprint(err))
	fmt.Println("done")
}
